"""
What an operator sees of a running pipeline.

    status      the one ``Status`` struct, and the backlog that belongs to it
    metrics     Prometheus metrics
    server      HTTP: /metrics, /health, /status
    terminal    the live view in a terminal
    log         log lines as text or JSON
"""
