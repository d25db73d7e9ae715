"""What every process shares: messages, their wire form, audio arithmetic and the error tree.

It contains no rule about who sends a message or why, and it imports none of the other packages.
"""
