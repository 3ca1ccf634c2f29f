"""The commands of `cc-agent`, a module each, loaded when called."""
