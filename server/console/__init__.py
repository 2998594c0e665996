"""The commands that talk to a running server: arguments to requests (`cli`, `arguments`), answers to people (`tables`,
`story`, `learning`), through the public client alone."""
