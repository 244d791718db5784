"""No models, as the tables are node-timeout's own; but Django sends ``post_migrate`` to apps that
have this file.
"""
