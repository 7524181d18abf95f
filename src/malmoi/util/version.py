"""The version of malmoi."""

VERSION = "0.1.0"
