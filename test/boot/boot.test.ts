// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'
import { cosim, leftovers } from './cli.ts'

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'boot-test-')
})
afterAll(() => rmSync(folder, { recursive: true }))

/** What every boot that went well has in common. */
function expectOk(report: Report | undefined, said: string): asserts report is Report {
  expect(report, said).toBeDefined()
  expect(report?.message, said).toBeUndefined()
  expect(report?.outcome).toBe('ok')
  const checks = report?.workload.map(({ device, operation, ok }) => `${device} ${operation} ${ok}`)
  expect(checks).toEqual([
    'virtio-blk read true',
    'nvme read true',
    'virtio-blk write true',
    'virtio-net fetch true',
    'e1000e fetch true',
  ])
}

/** What the kernel says of the QEMU that a process has started. */
function confinement(parent: number | undefined): string[] {
  const statuses = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(name => {
      try {
        return readFileSync(`/proc/${name}/status`, 'latin1')
      } catch {
        return '' // it has ended meanwhile
      }
    })
  const qemu = statuses.find(text => /^Name:\tqemu-system/m.test(text) && text.includes(`\nPPid:\t${parent}\n`))
  return qemu?.match(/^(NoNewPrivs|Seccomp):.*$/gm) ?? []
}

describe('Linux boots with every SMMUv3 access decided by the server', () => {
  test('passthrough', async () => {
    let confined: string[] = []
    const { code, report, said, stdout, pid } = await cosim(['boot', '--policy', 'passthrough'], {
      onOutput: (_text, { pid }) => {
        if (confined.length === 0) confined = confinement(pid)
      },
    })
    expectOk(report, said)
    expect(code).toBe(0)
    expect(report.policy).toBe('passthrough')
    expect(report.traps?.total).toBeGreaterThan(10_000)
    const leading = report.traps?.byRegister.slice(0, 2).map(r => r.register)
    expect(leading?.toSorted()).toEqual(['CMDQ_CONS', 'CMDQ_PROD'])
    expect(report.traps?.latencyUs.p50).toBeGreaterThan(0)
    expect(report.kernel).toMatch(/^6\.12\./)
    expect(stdout).toContain('arm-smmu-v3')
    expect(leftovers(pid)).toEqual([])
    // A filter of its own is 2.
    expect(confined).toEqual(['NoNewPrivs:\t1', 'Seccomp:\t2'])
  })

  test.each([
    ['two vCPUs', ['--smp', '2']],
    ['2 GiB of RAM', ['--memory', '2G']],
  ])('passthrough with %s', async (_name, args) => {
    const { report, said } = await cosim(['boot', '--policy', 'passthrough', ...args])
    expectOk(report, said)
  })

  test('baseline: the same machine without the server', async () => {
    const { report, said } = await cosim(['boot', '--baseline'])
    expectOk(report, said)
    expect(report.policy).toBe('baseline')
    expect(report.traps).toBeNull()
  })

  test('a user’s own policy file', async () => {
    const file = join(folder, 'mine.ts')
    const parts = new URL('../../server/hypervisor/passthrough/policy.ts', import.meta.url).href
    writeFileSync(file, `export { default } from ${JSON.stringify(parts)}\n`)
    const { report, said } = await cosim(['boot', '--policy', file])
    expectOk(report, said)
    expect(report.policy).toBe(file)
  })
})

describe('a run that goes wrong says so, once, and leaves nothing behind', () => {
  test('a policy that fails in the middle: server-died', async () => {
    const file = join(folder, 'failing.ts')
    const parts = new URL('../../server/hypervisor/passthrough/policy.ts', import.meta.url).href
    writeFileSync(
      file,
      `import { passthrough } from ${JSON.stringify(parts)}
       export default (machine, context) => {
         const policy = passthrough(machine, context)
         let left = 40
         return { ...policy, access(trap) { if (left-- === 0) throw new Error('out of luck'); policy.access(trap) } }
       }`,
    )
    const { code, report, stderr, pid } = await cosim(['boot', '--policy', file])
    expect(code).toBe(1)
    expect(report?.outcome).toBe('server-died')
    expect(report?.message).toContain('out of luck')
    expect(stderr).toContain('out of luck')
    expect(leftovers(pid)).toEqual([])
  })

  test.each([
    [[], 0, 'ok'],
    [['--require-recording'], 1, 'not-recorded'],
  ])(
    'a disk that is full is said when it happens, and counts only if that is asked for: %j',
    async (more, code, end) => {
      let before = ''
      const run = await cosim(['boot', '--record', '/dev/full', ...more], {
        onErrors: text => {
          if (!text.includes(`smmu-cosim: ${end}`)) before = text
        },
      })
      expect(before).toMatch(/^smmu-cosim: NOT RECORDED from here on: \/dev\/full: ENOSPC: no space left on device/m)
      expect([run.code, run.report?.outcome], run.said).toEqual([code, end])
      expect(run.stderr).toMatch(/trace {3}\/dev\/full .* LOST: ENOSPC/)
    },
  )

  test('a guest that never reaches userspace: guest-hung', async () => {
    const { code, report, pid } = await cosim(['boot', '--policy', 'passthrough', '--timeout', '2'])
    expect(code).toBe(1)
    expect(report?.outcome).toBe('guest-hung')
    expect(report?.message).toContain('never reached userspace')
    expect(leftovers(pid)).toEqual([])
  })

  test('a guest whose init is missing: guest-failed', async () => {
    const { code, report } = await cosim(['boot', '--policy', 'passthrough', '--append', 'rdinit=/nowhere root=none'])
    expect(code).toBe(1)
    expect(report?.outcome).toBe('guest-failed')
    expect(report?.message).toMatch(/^kernel panic: VFS: Unable to mount root fs/)
  })

  test('QEMU refuses its arguments: qemu-died with its own words', async () => {
    const { code, report, pid } = await cosim([
      'boot',
      '--policy',
      'passthrough',
      '--qemu-arg=-device',
      '--qemu-arg=nonsense',
    ])
    expect(code).toBe(1)
    expect(report?.outcome).toBe('qemu-died')
    expect(report?.message).toContain('nonsense')
    expect(leftovers(pid)).toEqual([])
  })

  test.each([
    ['Ctrl-C', 'SIGINT', 'Booting Linux'],
    ['SIGTERM', 'SIGTERM', 'Run /init'],
  ] as const)('%s', async (_name, signal, when) => {
    let sent = false
    const { code, report, pid } = await cosim(['boot', '--policy', 'passthrough'], {
      onOutput: (text, child) => {
        if (sent || !text.includes(when)) return
        sent = true
        child.kill(signal)
      },
    })
    expect(code).toBe(130)
    expect(report?.outcome).toBe('interrupted')
    expect(leftovers(pid)).toEqual([])
  })

  test('killed without a chance to clean up: QEMU ends with it, and the next run sweeps', async () => {
    let sent = false
    const { pid } = await cosim(['boot', '--policy', 'passthrough'], {
      onOutput: (text, child) => {
        if (sent || !text.includes('Booting Linux')) return
        sent = true
        child.kill('SIGKILL')
      },
    })
    await cosim(['boot', '--policy', 'passthrough', '--timeout', '1'])
    expect(leftovers(pid)).toEqual([])
  })

  test.each([
    ['an unknown option', ['--nonsense'], /unknown option '--nonsense'/],
    ['a missing kernel', ['--kernel', '/nowhere/Image'], /--kernel \/nowhere\/Image: no such file/],
    ['a missing initrd', ['--initrd', '/nowhere/initrd'], /'\/nowhere\/initrd' is invalid\. no such file/],
    ['a policy that does not exist', ['--policy', 'nonsense'], /no policy "nonsense"/],
    ['no vCPU', ['--smp', '0'], /whole number from 1/],
    ['a memory that is no size', ['--memory', 'much'], /"much" is not a size/],
    ['a carve-out of odd size', ['--carveout', '3M'], /not a multiple of 2M/],
    ['a RAM folder that does not exist', ['--ram-dir', '/nowhere'], /'\/nowhere' is invalid\. no such folder/],
    // Which of them: with --transport socket, also from the environment, it is in a folder.
    ['more RAM than fits', ['--memory', '1024T'], /(of memory available|free), guest RAM needs/],
    ['more RAM than fits in a folder', ['--memory', '1024T', '--ram-dir', '/dev/shm'], /free, guest RAM needs/],
    [
      'a report folder that does not exist',
      ['--report', '/nowhere/r.json'],
      /'\/nowhere\/r.json' is invalid\. its folder/,
    ],
  ])('%s', async (_name, args, message) => {
    const { code, stderr, report } = await cosim(['boot', ...args])
    expect(code).toBeGreaterThan(0)
    expect(stderr).toMatch(message)
    expect(report).toBeUndefined()
  })
})
