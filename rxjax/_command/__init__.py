"""The command `rxjax`.  Importing it is cheap: JAX and all else are loaded when a command runs."""

from ._app import app as app, main as main
