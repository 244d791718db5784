"""bamboo-pipeline's own suites, once without our app and once with it and a config on every node.

They are in its repository alone, so it takes a checkout of that:

    .venv-bamboo/bin/python -m tests.bamboo.suites path/to/bamboo-engine [--on mariadb]
"""
