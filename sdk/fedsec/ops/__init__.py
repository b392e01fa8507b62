"""What operates a long-lived process: its log, its health and metrics, and the checks of its way to the network."""
