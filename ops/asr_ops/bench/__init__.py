"""`asr bench`: how long speakers wait, and what serving them costs.

    schedule, statistics, report     pure: when each frame leaves, what the figures mean, how they are shown
    websocket                        pure: the least of RFC 6455 that a client needs, with frames masked beforehand
    audio                            what the sessions say
    load                             shell: the sessions, paced by one loop
    processes, service               shell: what the server's processes use; a service for the time of a bench
    command                          the command line

The load generator shares the machine with what it measures, so it does as little as possible per frame, and it
measures its own lateness: figures taken by a late generator are its own, not the server's.
"""
