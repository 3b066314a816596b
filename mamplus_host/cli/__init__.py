# SPDX-License-Identifier: Apache-2.0
"""`mamplus`: one file per command. typer and rich stay in here; the service never imports them."""
