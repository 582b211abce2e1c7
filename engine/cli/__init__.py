"""
The command line.

    main       the parser, exit statuses, the last resort for errors
    command    what a command is
    init       ``init``
    run        ``run``, ``tail``, ``demo``, ``bench``
    inspect    ``check``, ``status``, ``verify``
    tables     the tables that commands print
    wiring     a configuration → source and sink; the only module that uses the registries
"""
