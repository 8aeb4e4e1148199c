#!/usr/bin/env bash
# Known vulnerabilities of the locked packages: `make audit`. Exit 0: none but those in audit-ignored.txt; 1: others; 2: could
# not be looked up. pip-audit has a folder of its own, since its requirements are none of ours.
set -uo pipefail
cd "$(dirname "$0")/.."
version=2.10.1 venv=.venv-audit ignored=requirements/audit-ignored.txt

die() { echo "error: $*" >&2; exit 2; }

if [ "$($venv/bin/pip-audit --version 2>/dev/null)" != "pip-audit $version" ]; then
    .venv/bin/python -m venv $venv && $venv/bin/python -m pip install --quiet --retries 1 "pip-audit==$version" >$venv/log.txt 2>&1 ||
        die "pip-audit $version cannot be installed ($(grep -i error $venv/log.txt | tail -1)): run this where the package index is reached"
fi
# A line of the file: an id, then why it is no danger here.
ignore=()
[ -f $ignored ] || die "$ignored is missing"
while read -r id reason; do
    case $id in '' | '#'*) continue ;; esac
    [ -n "$reason" ] || die "$ignored: $id has no reason; write one behind it"
    ignore+=(--ignore-vuln "$id")
done <$ignored

audit() { # REQUIREMENTS: 0 nothing known, 1 found.txt has a table; without pip-audit's warnings
    $venv/bin/pip-audit --requirement "$1" --no-deps --disable-pip --progress-spinner off --timeout 15 \
        ${ignore[@]+"${ignore[@]}"} >$venv/found.txt 2>$venv/log.txt
}

# An index without advisories answers as if there were none: of this version of requests one has been known since 2018.
echo "requests==2.19.0" >$venv/known.txt
audit $venv/known.txt
grep -q '^requests *2.19.0 ' $venv/found.txt ||
    die "no advisory database is reached (it does not know that requests 2.19.0 is vulnerable): run this where the public index is"

status=0
for lock in cpu cuda; do
    audit requirements/$lock.txt && found=0 || found=$?
    skipped=$(grep -c 'could not be audited' $venv/found.txt)
    echo "audit: requirements/$lock.txt: $(grep -c == requirements/$lock.txt) packages, $skipped not audited"
    [ "$found" = 0 ] && continue
    grep -q '^Name  *Version' $venv/found.txt || die "pip-audit failed: $(tail -1 $venv/log.txt | cut -c1-200)"
    cat $venv/found.txt
    status=1
done
[ $status = 0 ] || echo "audit: mend by raising the version (make lock), or give the id and a reason in $ignored" >&2
exit $status
