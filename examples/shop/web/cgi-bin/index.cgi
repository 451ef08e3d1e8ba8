#!/bin/sh
echo "Content-Type: text/html"
echo
echo "<!doctype html><title>shop</title><h1>The shop</h1><p>This page came from replica <b>$MILL_ALLOC</b> on node $MILL_NODE, port $PORT.</p>"
