"""The older systems' environment variables as settings of this project. It imports only the error tree of asr_proto."""
