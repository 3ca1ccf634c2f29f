"""The commands, a module per noun; `command` is what the front adds."""
