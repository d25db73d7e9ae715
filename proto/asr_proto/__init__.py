"""What every process shares: messages, their wire form, audio arithmetic and the error tree.

This package must not know who sends a message or why; it imports none of the other packages.
"""
