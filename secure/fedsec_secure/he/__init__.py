"""Homomorphic encryption of masked words: BFV, through TenSEAL at sites, through integers at the coordinator."""
