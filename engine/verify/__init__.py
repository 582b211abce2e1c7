"""
The comparison of source and target, row by row, while changes flow.

    comparison    which rows are compared, in keyed and keyless tables
    recheck       how a candidate difference is confirmed or dismissed
    report        the result
"""
