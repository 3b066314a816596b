# SPDX-License-Identifier: Apache-2.0
"""Tries each control for real and says what came of it: "loaded" is not "enforcing".

    asking    what the command line and the agent call; the trials run in a process that ends (`helper`)
    place     where they happen: cgroup, file systems and pins of their own
    programs, contents, network, files, holding, itself
              one family of trials each, against probes that are loaded for the trial: what this kernel allows
    running   the same questions to the probes of the agent that runs here: what is enforced
    kept      `state/controls.json`, when to try again, what has become worse: pure
    examiner  the agent's side of it

docs/doctor.md says of each control what is tried and what that proves.
"""
