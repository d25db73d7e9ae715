"""The messages of every dialect, written once: paths, names of types and fields, both directions. Pure.

The codecs (`asr_frontends.dialects`), the test client (`asr_client.dialects`) and the bench (`asr_ops.bench`) use them.
Each dialect has one module; `clients` lists the test clients.
"""
