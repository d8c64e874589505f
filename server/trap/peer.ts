// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs'
import { BlockList, isIP, type Socket } from 'node:net'

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** Only programs of this machine reach it. */
export function isLoopback(host: string): boolean {
  const family = isIP(host)
  return host === 'localhost' || (family !== 0 && loopback.check(host, family === 6 ? 'ipv6' : 'ipv4'))
}

/**
 * The user whose program is at the other end of a TCP connection within this machine, as the kernel's table of sockets says
 * (proc(5), /proc/net/tcp).
 * @returns undefined: it is not in the table, or entries of several users would fit
 */
export function ownerOf(socket: Socket): number | undefined {
  const { remotePort, localPort } = socket
  if (remotePort === undefined || localPort === undefined) return undefined
  const owners = new Set(['tcp', 'tcp6'].flatMap(table => ownersIn(`/proc/net/${table}`, remotePort, localPort)))
  return owners.size === 1 ? owners.values().next().value : undefined
}

const ESTABLISHED = 1

/** Users of the connections from one port to another: the addresses are loopback's, where the ports tell enough. */
function ownersIn(table: string, from: number, to: number): number[] {
  const owners: number[] = []
  for (const line of readFileSync(table, 'latin1').split('\n').slice(1)) {
    const [, local = '', remote = '', state = '', , , , uid = ''] = line.trim().split(/\s+/)
    if (portOf(local) === from && portOf(remote) === to && Number.parseInt(state, 16) === ESTABLISHED) {
      owners.push(Number(uid))
    }
  }
  return owners
}

const portOf = (address: string): number => Number.parseInt(address.slice(address.lastIndexOf(':') + 1), 16)
