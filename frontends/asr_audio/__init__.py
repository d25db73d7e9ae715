"""Incoming audio, for the server and for clients: audio files, and the ordered entries of a session.

Of this project's packages it imports only asr_proto.
"""
