"""`asr bench` measures latencies under load, and the CPU time and memory that serving costs.

    schedule, statistics, report     pure: when each frame is sent; the figures and their definitions; the tables
    timeline, axes, charts, html     pure: each latency with its moment; the report as an HTML page
    difference, compare, history     what became better or worse between two runs; one line per run in a file
    websocket, dialects              pure: the part of RFC 6455 and of each dialect that a load generator needs
    plan, search                     pure: a generator's plan and its results; how many sessions to try next
    audio, scenario                  the audio that the sessions send; options in a file
    load, connection, disturbance    shell: the paced sessions; the connections that only disturb them
    by_client                        shell: sessions over WebRTC, through `asr_client`
    generator                        shell: load generators in separate processes, and the command's side of them
    processes                        shell: CPU time and memory of the server's processes and of the generators
    options, run, command            the options of a run; one run; the command line

The load generator shares the machine with the server that it measures, so it does little work per frame. It also
measures its own lateness: if frames are sent late, the figures describe the generator and not the server.
"""
