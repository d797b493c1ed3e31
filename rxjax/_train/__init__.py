"""Whole training runs on small tasks, for the command `rxjax train`."""
