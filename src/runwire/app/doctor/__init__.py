"""What is wrong with the deployment that the settings describe, without starting it; a module per kind of probe.

`examination.diagnose` asks them all. Nothing is imported here: the process that imports the agents needs none of it.
"""
