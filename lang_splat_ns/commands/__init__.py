"""The subcommands of `lang-splat`, one file each. Their modules import nothing heavy; their `run` methods do."""
