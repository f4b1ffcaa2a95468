"""The controller: one fleet's documents, identities and telemetry, over one database.

A process keeps no state: several copies on one database serve one fleet.
"""
