"""Micro benches: the cost of each part that handles an audio frame, measured separately.

    asr bench micro                          all parts, about a minute
    asr bench micro wire codec               the CPU time of these parts, some seconds
    asr bench micro broker --sessions 10000  only the broker, under load

`wire`, `codec`, `batcher` and `sessions` call a part in this process in many rounds and measure CPU time, which other
programs change little. `us` is the median round and `best` the cheapest round, in microseconds for one frame, chunk or
partial. `cores` is the number of cores that this part takes for 1,000 sessions, each with 50 audio frames, 50/3 chunks
or 4 partials a second.

`broker` starts a real `asr-broker` and simulates 4 frontends and 8 workers with bundles made in advance. It opens all
sessions first. Then each frontend sends each worker one bundle every 5 ms, with a 20 ms frame of every fourth of their
common sessions. The columns:

    frames/s        frames that reached the workers, per second
    bundle          frames in a bundle, on average
    main, I/O       cores used by the broker's own thread and by ZeroMQ's threads
    us/bundle       CPU time of all its threads for one bundle
    us/frame        the same for one frame; 1,000,000 divided by it is the frames that one core forwards a second
    cores/1,000     cores used for 1,000 sessions
    hop p50, p99    milliseconds from before a frontend's send to after a worker's receive, without the frontend's 5 ms
    late p99        milliseconds by which bundles were sent too late by the generator

A bundle carries its sending time in place of its first frame's sample index, which the broker never reads. The rows at
full speed use no clock: they keep a fixed number of bundles under way, and so measure the most that the broker can
forward. Their bundles are those of that many sessions, or, for `messages`, hold one frame of three samples. If no
thread was near a whole core, the generator was the bottleneck, and the report warns about it.
"""
