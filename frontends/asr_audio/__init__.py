"""Audio on its way in, for the server and for clients alike: files, and what a client sent in its order.

Of the project it imports only asr_proto.
"""
