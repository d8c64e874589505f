// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { encodeMemRead, encodePause, encodeResume, Id } from '../../protocol/generated/messages.ts'
import { COUNTS, readingGuest } from './bare.ts'
import { QtestMachine, RAM } from './machine.ts'
import { Peer } from './peer.ts'

/** About 30 ms between the guest's accesses: QEMU's main loop serves the server meanwhile. */
const IDLE = 20_000_000
const ROUNDS = 10

let machine: QtestMachine
let peer: Peer
beforeEach(async () => {
  machine = new QtestMachine()
  peer = await Peer.listen(machine.socket)
})
afterEach(async () => {
  peer.close()
  await machine.dispose()
})

test('an access that the guest makes while it is being stopped reaches the server, and completes', async () => {
  const kernel = join(machine.folder, 'kernel')
  writeFileSync(kernel, readingGuest(IDLE))
  let up = false
  const starting = machine.start({ accel: 'tcg', args: ['-kernel', kernel] }).finally(() => {
    up = true
  })
  await peer.started()
  // QEMU's own sockets wait for a guest that waits for the server.
  do peer.reply(await peer.next(Id.trapRead))
  while (!up)
  await starting
  for (let round = 0; round < ROUNDS; round++) {
    peer.reply(await peer.next(Id.trapRead))
    // The main loop is back at the socket, and is busy with this beyond the guest's next access; then it stops the guest.
    await new Promise(resolve => setTimeout(resolve, 15))
    const reads = Array.from({ length: 64 }, () => (out: Parameters<typeof encodeMemRead>[0], seq: number) => {
      encodeMemRead(out, seq, RAM, 1_000_000)
    })
    peer.send(...reads, encodePause)
    for (let i = 0; i < reads.length; i++) await peer.first(Id.data)
    expect((await peer.first(Id.done)).status).toBe(0)
    peer.send(encodeResume)
    expect((await peer.first(Id.done)).status).toBe(0)
  }
  const ram = openSync(machine.ramFile, 'r')
  const counts = Buffer.alloc(16)
  readSync(ram, counts, 0, counts.length, COUNTS - RAM)
  closeSync(ram)
  expect(counts.readBigUInt64LE(8), 'aborted').toBe(0n)
  expect(counts.readBigUInt64LE(0), 'completed').toBeGreaterThanOrEqual(BigInt(ROUNDS - 1))
})
