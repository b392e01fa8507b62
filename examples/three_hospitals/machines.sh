# Machines for run.sh: network namespaces where they can be had, ports of this machine where not.
#
#                      switch (a bridge)
#        ┌───────────────┬─────┴─────────┬───────────────┐
#   coordinator       clifton          priory          proxy ── 10.77.9.0/24 ── harbour
#    10.77.0.1       10.77.0.2        10.77.0.3     10.77.0.9 10.77.9.1        10.77.9.2
#
# Each is a namespace of its own with a loopback of its own. Nothing forwards: harbour reaches the proxy and nobody else.

NET=fedsec-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
declare -A ADDRESS=([coordinator]=10.77.0.1 [clifton]=10.77.0.2 [priory]=10.77.0.3 [proxy]=10.77.0.9)
declare -A PIDS=()
PROXY_PID=
NO_PROXY_SET=(-u grpc_proxy -u https_proxy -u http_proxy -u no_grpc_proxy -u no_proxy
  -u HTTPS_PROXY -u HTTP_PROXY -u NO_PROXY -u ALL_PROXY -u all_proxy)

lay_network() {
  local name
  ip netns add "$NET-switch" 2> "$WORK/logs/network" || return 1
  {
    ip -n "$NET-switch" link add bridge type bridge && ip -n "$NET-switch" link set bridge up || return 1
    for name in coordinator clifton priory proxy; do
      machine "$name" && plug "$name" || return 1
    done
    machine harbour && ip -n "$NET-proxy" link add inside type veth peer name eth0 netns "$NET-harbour" || return 1
    ip -n "$NET-proxy" address add 10.77.9.1/24 dev inside && ip -n "$NET-proxy" link set inside up || return 1
    ip -n "$NET-harbour" address add 10.77.9.2/24 dev eth0 && ip -n "$NET-harbour" link set eth0 up || return 1
  } 2>> "$WORK/logs/network"
  COORDINATOR=${ADDRESS[coordinator]} PORT=8002 PROXY=10.77.9.1 PROXY_PORT=3128
  WHERE="in network namespaces ($NET-…)" WALL="without another way"
}

machine() { ip netns add "$NET-$1" && ip -n "$NET-$1" link set lo up; }

plug() {
  ip -n "$NET-switch" link add "$1" type veth peer name eth0 netns "$NET-$1" &&
    ip -n "$NET-switch" link set "$1" master bridge up &&
    ip -n "$NET-$1" address add "${ADDRESS[$1]}/24" dev eth0 && ip -n "$NET-$1" link set eth0 up
}

use_loopback() {
  echo "no network namespaces ($(tail -n 1 "$WORK/logs/network" 2> /dev/null | grep . || echo asked for loopback)):" \
    "all on 127.0.0.1, so nothing but the proxy's log shows which way harbour takes"
  COORDINATOR=127.0.0.1 PROXY=127.0.0.1 WHERE="on ports of this machine" WALL="as its environment says"
  PORT=$("$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  PROXY_PORT=0
}

# A command on one of the machines, in place of this shell. No proxy of this machine's environment counts there.
on() {
  local name=$1 way=()
  shift
  [ -n "$LOOPBACK" ] || way=(ip netns exec "$NET-$name")
  [ "$name" != harbour ] || set -- https_proxy="http://$PROXY:$PROXY_PORT" "$@"
  exec "${way[@]}" env "${NO_PROXY_SET[@]}" "$@"
}

# NAME COMMAND…: a process of its own, its output in logs/NAME; the second one on the machine of that name.
start() {
  "${@:2}" > "$WORK/logs/$1" 2>&1 &
  PIDS[$1]=$!
}
start_on() {
  (on "$@") > "$WORK/logs/$1" 2>&1 &
  PIDS[$1]=$!
}

start_proxy() {
  (on proxy "$PYTHON" "$HERE/connect_proxy.py" --bind "$PROXY" --port "$PROXY_PORT") \
    > "$WORK/logs/proxy" 2> "$WORK/logs/proxy-tunnels" &
  PROXY_PID=$!
  local i
  for ((i = 0; i < 300; i++)); do
    [ ! -s "$WORK/logs/proxy" ] || break
    sleep 0.1
  done
  PROXY_PORT=$(head -n 1 "$WORK/logs/proxy")
  [ -n "$PROXY_PORT" ] || { last_words proxy-tunnels; fail "the proxy does not start"; }
}

# Each machine gets its own folder: what it has of the working set, its kit, the plan. No state, no officer's key.
part_working_set() {
  local set=$1 kits=$2 machines=$3 site data
  mkdir -p "$machines/coordinator/office/approvals"
  cp -p "$set"/coordinator/coordinator.{key,toml} "$machines/coordinator/office/"
  mv "$kits/coordinator" "$machines/coordinator/office/engine"
  for site in "${SITES[@]}"; do
    mkdir -p "$machines/$site/site"
    cp -p "$set/$site"/{site.key,site.toml,policy.toml,approval.json} "$machines/$site/site/"
    data=$(sed -n 's/^path = "\(.*\)"$/\1/p' "$machines/$site/site/site.toml")
    cp "$data" "$machines/$site/site/notes.jsonl"
    sed -i 's/^path = .*/path = "notes.jsonl"/' "$machines/$site/site/site.toml"
    mv "$kits/$site" "$machines/$site/site/engine"
    cp -p "$set/$site/approval.json" "$machines/coordinator/office/approvals/$site.json"
  done
  for site in coordinator "${SITES[@]}"; do
    cp "$WORK/plan.json" "$machines/$site/"
    [ ! -d "$set/public" ] || cp -r "$set/public" "$machines/$site/" # where their files say: ../public
  done
}

reaches() { (on "$1" timeout 3 bash -c "exec 3<> /dev/tcp/$COORDINATOR/$PORT") 2> /dev/null; }

# harbour reaches the coordinator only through the proxy. That clifton does shows that somebody listens there.
require_walls() {
  [ -z "$LOOPBACK" ] || return 0
  local name
  until reaches clifton; do
    kill -0 "${PIDS[coordinator]}" 2> /dev/null || { last_words coordinator; fail "the coordinator does not listen"; }
    sleep 0.3
  done
  ! reaches harbour || fail "harbour reaches the coordinator without the proxy"
  for name in coordinator clifton priory proxy harbour; do
    [ "$(on "$name" cat /proc/sys/net/ipv4/ip_forward)" = 0 ] || fail "$name forwards packets"
  done
}

# The first one that ends badly ends all.
wait_for_all() {
  local left=${#PIDS[@]} ended code name
  for ((; left > 0; left--)); do
    code=0
    wait -n -p ended "${PIDS[@]}" || code=$?
    for name in "${!PIDS[@]}"; do
      [ "${PIDS[$name]}" = "$ended" ] || continue
      unset "PIDS[$name]"
      [ "$code" = 0 ] || { last_words "$name"; fail "$name ended with $code"; }
    done
  done
}

require_traffic() {
  local asked carried=0 i
  for ((i = 0; i < 50 && carried < 20000; i++)); do # the last tunnel ends just now
    sleep 0.2
    carried=$(awk '{ sum += $(NF - 5) + $(NF - 2) } END { print sum + 0 }' "$WORK/logs/proxy-tunnels")
  done
  asked=$(grep -c "^CONNECT $COORDINATOR:$PORT\$" "$WORK/logs/proxy") || fail "harbour never asked the proxy"
  [ "$((asked + 1))" = "$(wc -l < "$WORK/logs/proxy")" ] || fail "the proxy was asked for other places as well"
  [ "$carried" -ge 20000 ] || fail "the proxy carried $carried bytes only"
  echo "          harbour, $WALL: $((carried / 1000)) kB through the proxy ($asked × CONNECT)"
}

# Everything that was started ends, and the network goes. The processes first: a namespace lives as long as they do.
take_down() {
  local pid net i
  local pids=("${PIDS[@]}" $PROXY_PID)
  for ((i = 0; i < 200 && ${#pids[@]} > 0; i++)); do
    [ "$i" != 0 ] || kill "${pids[@]}" || true
    kill -0 "${pids[@]}" || break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -9 "$pid" || true; done
  [ ${#pids[@]} = 0 ] || wait "${pids[@]}" || true
  [ -z "$LOOPBACK" ] && command -v ip > /dev/null || return 0
  for net in $(ip netns list | grep -o "^$NET-[a-z]*"); do
    for pid in $(ip netns pids "$net"); do kill -9 "$pid" || true; done
    ip netns delete "$net" || true
  done
} 2> /dev/null
