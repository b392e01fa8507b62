"""The trusted core: packets, identities, exact sums, masks and weights. No learning, no network, no clock."""
