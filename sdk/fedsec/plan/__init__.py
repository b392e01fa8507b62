"""What is agreed before anything runs: plan, policy, approval, site file, and what they mean in plain words."""
