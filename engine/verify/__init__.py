"""
The comparison of source and target, row by row, while changes flow.

    comparison    which rows are compared, in keyed and keyless tables
    multisets     keyless tables
    recheck       how a candidate difference is confirmed or dismissed
    reader        blocking readers, off the event loop
    report        the result
    content, page, seal    the report for people: what it tells, its page, its hashes and signature
"""
