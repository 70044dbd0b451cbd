HOSTILE = {}


def expect_refused(name, folder): ...
