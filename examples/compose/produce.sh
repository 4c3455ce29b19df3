#!/bin/sh
# Enqueues N jobs that count the words of files in /texts, and prints "ID FILE" for each of them. A job
# that was not confirmed is enqueued again under the same name: twice the same name is one job.
set -eu
jobs=$1
run=$(cat /proc/sys/kernel/random/uuid)
set -- /texts/*.md
n=0
while [ "$n" -lt "$jobs" ]; do
    file=$1
    shift
    set -- "$@" "$file"
    n=$((n + 1))
    tries=0
    until id=$(millhand enqueue wordcount --id "$run-$n" --args "\"$file\""); do
        tries=$((tries + 1))
        if [ "$tries" -ge 120 ]; then
            echo "produce: job $n of $jobs could not be enqueued" >&2
            exit 1
        fi
        sleep 1
    done
    echo "$id $file"
done
