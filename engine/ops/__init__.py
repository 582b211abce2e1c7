"""
What an operator sees of a running pipeline.

    status      the one ``Status`` struct, and the backlog that belongs to it
    metrics     Prometheus metrics
    api         HTTP: metrics, health, status and commands; access: who may use it; openapi
    server      the HTTP server
    terminal    the live view in a terminal
    log         log lines as text or JSON
"""
