"""Micro benches: what each part on a frame's way costs, alone.

    asr bench micro                          everything, about a minute
    asr bench micro wire codec               the CPU time of single parts, some seconds
    asr bench micro broker --sessions 10000  a broker under load, nothing else

`wire`, `codec`, `batcher` and `sessions` call a part in this process, round after round, and count CPU time, so that
other programs disturb little. `us` is the median round, `best` the cheapest; both are microseconds for one frame, chunk
or partial. `cores` is the share of a core that 1,000 sessions take of this part, each with 50 audio frames, 50/3 chunks
or 4 partials a second.

`broker` starts a real `asr-broker` and plays 4 frontends and 8 workers with ready-made bundles: all sessions are opened
first; then each frontend sends each worker one bundle every 5 ms, which holds a 20 ms frame of every fourth of their
common sessions. What a row says:

    frames/s        that reached the workers
    bundle          frames in a bundle, on average
    main, I/O       cores that the broker's own thread and ZeroMQ's took
    us/bundle       CPU time of both threads for one bundle
    us/frame        the same for one frame; 1,000,000 divided by it is what one core forwards in a second
    cores/1,000     the same for 1,000 sessions
    hop p50, p99    milliseconds from before a frontend's send to after a worker's receive, without the frontend's 5 ms
    late p99        how much later than due the bundles left: the generator's fault

A bundle leaves with the time in the place of its first frame's sample index, which the broker never sees. The rows at
full speed keep a fixed number of bundles under way instead of a clock: what the broker can forward at most, bundled as
with that many sessions, and for `messages` with one frame of three samples each. Where neither thread was near a whole
core, the generator was the bottleneck, and the report says so.
"""
