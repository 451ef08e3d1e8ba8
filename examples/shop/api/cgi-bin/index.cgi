#!/bin/sh
echo "Content-Type: application/json"
echo
echo "{\"greeting\": \"$GREETING\", \"replica\": \"$MILL_ALLOC\", \"port\": $PORT}"
