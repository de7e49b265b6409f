# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What raises, mends and removes the lab; `lab/labctl`, `lab/run` and `lab/switch` are its commands."""
