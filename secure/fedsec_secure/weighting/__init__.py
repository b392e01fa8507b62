"""Public weight rules — integers that every site recomputes — with cap and effective cohort."""
