// SPDX-License-Identifier: Apache-2.0
/** Cells of matrices as jobs of a fleet. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { isDevice } from '../machine/devices.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { OUTCOMES, type Outcome } from '../run/ending.ts'
import { type Cell, type CellResult, cellName } from '../sessions/matrix.ts'
import { machineIdentities } from './identity.ts'
import type { CellWork } from './job.ts'
import { filesFor, type GuestFiles } from './own.ts'
import type { Sent } from './sender.ts'

/** What goes over the queue: no path but the kernel's, which is a name there. @throws Error: a policy in a file is code */
export function cellWork({ kernel, devices, until, translate, granule, machine }: Cell): CellWork {
  const { policy, memory, smp, timeout, append, qemuArgs } = machine
  if (!POLICY_NAMES.includes(policy)) throw new Error(`${policy}: workers have the policies ${POLICY_NAMES.join(', ')}`)
  return {
    do: 'cell',
    devices: devices.filter(isDevice),
    ...{ kernel, until, translate, granule, policy, memory, smp, timeout },
    ...(append !== undefined && { append }),
    ...(qemuArgs !== undefined && { qemuArgs: [...qemuArgs] }),
  }
}

/** The same on a worker. @param files its own */
export function cellOf({ do: _, kernel: __, ...work }: CellWork, { kernel, ...files }: GuestFiles): Cell {
  const { devices, until, translate, granule, ...machine } = work
  return { kernel, devices, until, translate, granule, machine: { ...machine, ...files } }
}

const text = (maxLength: number) => Type.String({ maxLength })
const Result = Compile(
  Type.Object(
    {
      verdict: Type.Enum([...(Object.keys(OUTCOMES) as Outcome[]), 'harness-error' as const]),
      asExpected: Type.Boolean(),
      ms: Type.Number({ minimum: 0 }),
      message: text(1000),
      release: Type.Union([text(200), Type.Null()]),
      qemu: Type.Optional(text(200)),
      checks: Type.Array(Type.Object({ name: text(200), error: text(400) }), { maxItems: 100 }),
      warnings: Type.Array(text(100), { maxItems: 100 }),
      traps: Type.Union([Type.Number(), Type.Null()]),
      console: Type.Array(text(1 << 14), { maxItems: 100 }),
    },
    { additionalProperties: false },
  ),
)

/** A result that came over the queue. @throws Error when it is none */
export function cellResult(value: unknown): CellResult {
  if (Result.Check(value)) return { ...value, asExpected: value.verdict === 'ok' }
  const [first] = Result.Errors(value)
  throw new Error(`no result of a cell: ${first?.instancePath || '/'} ${first?.message ?? ''}`)
}

/** Of a cell that no worker brought to an end. */
const lostCell = (message: string): CellResult => ({
  ...{ verdict: 'harness-error', asExpected: false, ms: 0, message, release: null },
  ...{ checks: [], warnings: [], traps: null, console: [] },
})

/**
 * Cells as they go over the queue.
 * @param folder where report and console of each cell go, in a folder of its own
 * @param qemu of this machine: the identity that workers have to have is that of this machine's code
 * @param publish folder that kernels are put into, for workers
 */
export function sentCells(folder: string, qemu?: string, publish?: string): Sent<Cell, CellResult> {
  const identityOf = machineIdentities(publish)
  return {
    nameOf: cellName,
    async pack(cell, signal) {
      const { modules, initrd } = cell.machine
      const files = filesFor(cell.kernel, { ...(modules && { modules }), ...(initrd && { initrd }) })
      const { kernel } = cell
      const devices = cell.devices.filter(isDevice)
      const identity = await identityOf({ kernel, devices, ...files, ...(qemu && { qemu }) }, signal)
      return { identity, work: cellWork(cell) }
    },
    unpack(value, cell, files) {
      const result = cellResult(value)
      const own = join(folder, cellName(cell).replace(/[^\w.-]+/g, '_'))
      mkdirSync(own, { recursive: true })
      for (const { name, bytes } of files) writeFileSync(join(own, name), bytes)
      return result
    },
    lost: lostCell,
  }
}
