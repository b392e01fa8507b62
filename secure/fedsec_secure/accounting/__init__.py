"""What a privacy ledger means: mechanism events, the chain that they are written in, and when one more is refused."""
