"""The benchmark of ws_hub: `make bench`, or `python -m bench --help`.

Nothing in `ws_hub` imports it. One run::

    run ──> rows ──> stage ──JSON lines──> servers   the server under test, one core
                       └─────JSON lines──> load      its clients, another core

    attack ──> trial ──JSON lines──> servers.attacked, witness, attackers, servers.sink

    scale ──> fleet_trial ──JSON lines──> readers; fleet: workers of gunicorn, servers.scaled

    soak ──JSON lines──> servers.soak and visitors   `make soak`: everything at once
"""
