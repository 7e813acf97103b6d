"""Everything that touches disk or network: access policy, locations, locks, atomic writing."""
