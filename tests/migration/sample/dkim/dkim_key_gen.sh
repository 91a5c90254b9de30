#!/bin/sh
# Stands for the script that makes keys; the server never runs it.
echo "usage: $0 DOMAIN [USER]" >&2
exit 1
