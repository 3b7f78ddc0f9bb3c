"""Whether a VM can move to another host: `looks` gathers the facts of both hosts, `rules` says all that is wrong."""
