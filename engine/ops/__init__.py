"""
What an operator sees of a running pipeline.

    status      the one ``Status`` struct; recent_errors: the last errors in it
    monitor     the status with what the source has to be asked for; trend: rates, estimates
    history     lag and throughput of the last 24 hours
    metrics     Prometheus metrics; metric_list: their names; gauges, table_counters, histogram
    api         HTTP: metrics, health, status and commands; access: who may use it; openapi
    dashboard   the page; words: the state in words
    server      the HTTP server
    terminal    the live view in a terminal
    log         log lines as text or JSON
"""
