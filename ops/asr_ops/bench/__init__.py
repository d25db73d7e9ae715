"""`asr bench`: how long speakers wait, and what serving them costs.

    schedule, statistics, report     pure: when each frame leaves, what the figures mean, how they are shown
    timeline, axes, charts, html     pure: when each latency was met; the report as a page
    difference, compare, history     what became better or worse from one run to another; one line per run
    websocket, dialects              pure: the least of RFC 6455 and of each dialect that a load generator needs
    plan, search                     pure: what generators are told and answer; how many sessions to try next
    audio, scenario                  what the sessions say; options in a file
    load, connection, disturbance    shell: the sessions, paced by one loop; those that only disturb them
    by_client                        shell: the few sessions that `asr_client` speaks, over WebRTC
    generator                        shell: load generators in processes of their own, and the command's end of them
    processes                        shell: what the server's processes, and our own, use
    options, run, command            what is asked for; one run; the command line

The load generator shares the machine with what it measures, so it does as little as possible per frame, and it
measures its own lateness: figures taken by a late generator are its own, not the server's.
"""
