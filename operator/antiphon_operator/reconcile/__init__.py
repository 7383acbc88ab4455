"""Pure: what is asked for and what is seen, to manifests and conditions. No I/O, no clock."""
