// SPDX-License-Identifier: Apache-2.0
/**
 * Builds the idmap of 1 GiB so many times, in pages or blocks, and prints how long each took as JSON, ms. A process of its own: the first
 * is cold.
 */
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { FileMemory } from '../../server/machine/fileMemory.ts'
import { Scratch } from '../../server/machine/scratch.ts'
import { BenchMachine, MiB, RAM_BASE } from './machine.ts'

const RAM_BYTES = 1024 * MiB
const CARVEOUT_BYTES = 64 * MiB

const scratch = new Scratch()
try {
  const fd = openSync(join(scratch.ram, 'ram'), 'wx+', 0o600)
  ftruncateSync(fd, RAM_BYTES)
  const machine = new BenchMachine(
    new FileMemory(fd, [{ base: RAM_BASE, size: RAM_BYTES, offset: 0 }]),
    CARVEOUT_BYTES,
    {
      blocks: process.argv[3] === 'blocks',
    },
  )
  const { hypervisor } = machine
  const times: number[] = []
  for (let left = Number(process.argv[2]); left > 0; left--) {
    if (times.length > 0) hypervisor.reset()
    if (hypervisor.idmap === null) throw new Error('there is no idmap')
    times.push(hypervisor.idmap.state.buildUs / 1000)
    machine.drain()
  }
  machine.check()
  closeSync(fd)
  console.log(JSON.stringify(times))
} finally {
  scratch.remove()
}
