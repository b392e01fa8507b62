#!/usr/bin/env bash
# One study twice, in one process and on four machines, and the same adapter from both, bit for bit.
#
#   examples/three_hospitals/run.sh [--smoke] [--loopback] [--keep DIR]
#
#   --smoke      a two-layer model of random weights: seconds
#   --loopback   ports of this machine instead of network namespaces, which need root
#   --keep DIR   leave everything there (new or empty); without it all is deleted
#
# FEDSEC and PYTHON name the programs; left out, those of .venv, or of the path.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
source "$HERE/machines.sh"

PLAN=plan.toml LOOPBACK= KEEP= RUN=three-1 SITES=(clifton harbour priory)
while [ $# -gt 0 ]; do
  case $1 in
    --smoke) PLAN=smoke.toml ;;
    --loopback) LOOPBACK=1 ;;
    --keep) KEEP=${2:?--keep names a folder}; shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
VENV=$HERE/../../.venv/bin
FEDSEC=${FEDSEC:-$([ -x "$VENV/fedsec" ] && echo "$VENV/fedsec" || command -v fedsec || true)}
[ -n "$FEDSEC" ] || { echo "there is no fedsec here; run: make install-nvflare" >&2; exit 2; }
PYTHON=${PYTHON:-$(dirname "$FEDSEC")/python}
# Idle threads sleep: a machine has few cores for so many processes.
export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

if [ -n "$KEEP" ]; then
  mkdir -p "$KEEP"
  [ -z "$(ls -A "$KEEP")" ] || { echo "$KEEP is not empty" >&2; exit 2; }
  WORK=$(cd "$KEEP" && pwd)
else
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/three-hospitals.XXXXXX")
fi
chmod 700 "$WORK"
end() {
  local code=$?
  trap '' INT TERM
  trap - EXIT
  take_down
  [ -n "$KEEP" ] || rm -rf "$WORK" || { sleep 1; rm -rf "$WORK" || true; }
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '%6.1f s  %s\n' "$(since "$BEGAN")" "$1"; BEGAN=$EPOCHREALTIME; }
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }
fail() { echo "FAILED: $1" >&2; exit 1; }
last_words() { tail -n 5 "$WORK/logs/$1" | cut -c 1-400 >&2; }
digest() { sha256sum "$1/adapter/adapter_model.safetensors" | cut -d ' ' -f 1; }
fedsec_here() { start "$1" "$FEDSEC" "${@:2}"; }

mkdir "$WORK/logs"
STARTED=$EPOCHREALTIME BEGAN=$EPOCHREALTIME
echo "three hospitals under $PLAN, run $RUN"

fedsec_here embedded run "$HERE/$PLAN" --sites "$HERE/sites" --out "$WORK/embedded" --init --run-id "$RUN"
wait_for_all
step "the run in one process: adapter $(digest "$WORK/embedded" | cut -c 1-12)…"

# From here on these are machines: each has its own files, and neither record nor ledger of the run above.
[ -n "$LOOPBACK" ] || lay_network || LOOPBACK=1
[ -z "$LOOPBACK" ] || use_loopback
cp "$WORK/embedded/plan.json" "$WORK/plan.json"
fedsec_here provision coordinator provision "$WORK/plan.json" --host "$COORDINATOR" --port "$PORT" --out "$WORK/kits"
wait_for_all
part_working_set "$WORK/embedded-sites" "$WORK/kits" "$WORK/machines"
step "kits for mTLS, and ${#SITES[@]} sites and a coordinator $WHERE"

start_proxy
start_on coordinator "$FEDSEC" coordinator serve "$WORK/machines/coordinator/plan.json" --bind "$COORDINATOR" \
  --away 120 --coordinator "$WORK/machines/coordinator/office/coordinator.toml" --out "$WORK/distributed" --run-id "$RUN"
for site in "${SITES[@]}"; do
  start_on "$site" "$FEDSEC" site join "$WORK/machines/$site/plan.json" --site "$WORK/machines/$site/site/site.toml"
done
require_walls
wait_for_all
step "the run on machines apart: adapter $(digest "$WORK/distributed" | cut -c 1-12)…"
require_traffic

fedsec_here verify-embedded verify "$WORK/embedded"
fedsec_here verify-distributed verify "$WORK/distributed"
wait_for_all
step "fedsec verify holds for both"

cmp "$WORK/embedded/plan.json" "$WORK/distributed/plan.json" || fail "the two runs are not of one plan"
echo "one process    $(digest "$WORK/embedded")"
echo "machines apart $(digest "$WORK/distributed")"
cmp "$WORK"/{embedded,distributed}/adapter/adapter_model.safetensors || fail "the two adapters differ"
times > "$WORK/logs/times"
awk -v s="$(since "$STARTED")" 'NR == 2 { split($0, t, /[ms ]+/)
  printf "the same, bit for bit; %.0f s in all, %.0f s of processor time\n", s, 60 * (t[1] + t[3]) + t[2] + t[4] }' \
  "$WORK/logs/times"
[ -z "$KEEP" ] || echo "everything is in $WORK"
