// SPDX-License-Identifier: Apache-2.0
/**
 * The compose file: that it means what it says, and where there is a Docker engine, that it runs. The latter builds
 * images, which takes long the first time: it is done when SMMU_COSIM_DOCKER is set.
 */
import { type ExecFileException, execFile, execFileSync } from 'node:child_process'
import { appendFileSync, cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hostPackages } from '../../scripts/setup/packages.ts'
import { privateFolder } from '../../server/machine/scratch.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FILE = join(ROOT, 'docker/compose.yaml')
const FILES = ['package.json', 'package-lock.json', 'tsconfig.json', 'LICENSE']
const BUILD_MS = 3_600_000

function answers(...args: string[]): boolean {
  try {
    execFileSync('docker', args, { stdio: 'ignore', timeout: 20_000 })
    return true
  } catch {
    return false
  }
}

interface Service {
  readonly user: string
  readonly read_only?: boolean
  readonly cap_add?: string[]
  readonly cap_drop?: string[]
  readonly privileged?: boolean
  readonly security_opt?: string[]
  readonly mem_limit?: string
  readonly pids_limit?: number
  readonly ports?: { readonly host_ip?: string; readonly published: string }[]
  readonly volumes?: {
    readonly type: string
    readonly source: string
    readonly target: string
    readonly read_only?: boolean
  }[]
}

function config(profile: string, env: NodeJS.ProcessEnv = {}): Record<string, Service> {
  const args = ['compose', '-f', FILE, '--profile', profile, 'config', '--format', 'json']
  const text = execFileSync('docker', args, { encoding: 'utf8', env: { ...process.env, ...env } })
  return (JSON.parse(text) as { services: Record<string, Service> }).services
}

const compose = answers('compose', 'version')
const engine = compose && answers('info')

describe.skipIf(!compose)(`the compose file${compose ? '' : ' (skipped: there is no docker compose)'}`, () => {
  test.each([
    ['dev', ['qemu', 'server']],
    ['ci', ['ci', 'qemu']],
    ['faults', ['faults', 'qemu']],
  ])('profile %s', (profile, names) => {
    const services = config(profile)
    expect(Object.keys(services).sort()).toEqual(names)
    for (const [name, service] of Object.entries(services)) {
      expect(service, name).toMatchObject({ user: '1000:1000', read_only: true, cap_drop: ['ALL'] })
      expect(service.cap_add, name).toBeUndefined()
      expect(service.privileged, name).toBeUndefined()
      expect(service.security_opt, name).toEqual(['no-new-privileges:true'])
      expect(service.mem_limit, name).toBeDefined()
      expect(service.pids_limit, name).toBeGreaterThan(0)
      for (const port of service.ports ?? []) expect(port.host_ip, name).toBe('127.0.0.1')
      for (const volume of service.volumes ?? []) {
        expect(volume.source, name).not.toContain('docker.sock')
        if (volume.target.startsWith('/app/') && volume.type === 'bind') expect(volume.read_only, name).toBe(true)
      }
    }
  })

  test('dev is what is started when no profile is named', () => {
    const { COMPOSE_PROFILES: _, ...env } = process.env
    const services = execFileSync('docker', ['compose', '-f', FILE, 'config', '--services'], { encoding: 'utf8', env })
    expect(services.trim().split('\n').sort()).toEqual(['qemu', 'server'])
  })

  test('the user, the port and the folder of runs are the caller’s choice', () => {
    const { server, qemu } = config('dev', {
      COSIM_UID: '1234',
      COSIM_GID: '99',
      COSIM_PORT: '9000',
      COSIM_RUNS: '/tmp/x',
    })
    expect(server?.user).toBe('1234:99')
    expect(qemu?.ports?.[0]?.published).toBe('9000')
    expect(server?.volumes?.find(({ target }) => target === '/state')?.source).toBe('/tmp/x')
  })
})

test('the image has the system packages that set-up asks for', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const trixie = 'ID=debian\nVERSION_ID="13"\n'
  for (const name of hostPackages(trixie)) expect(dockerfile.split(/\s+/)).toContain(name)
})

test('no stage names a platform or an image but the base', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const stages = [...dockerfile.matchAll(/^FROM (\S+)(?: AS (\S+))?$/gm)]
  const names = new Set(stages.map(([, , name]) => name))
  for (const [, from] of stages) expect(from === `\${BASE}` || names.has(from), from).toBe(true)
  expect(dockerfile).not.toMatch(/--platform|amd64\b(?!,)|x86_64|aarch64-linux/)
})

const wanted = process.env.SMMU_COSIM_DOCKER !== undefined
const why = !engine ? ' (skipped: no Docker engine answers)' : wanted ? '' : ' (skipped: SMMU_COSIM_DOCKER is not set)'

describe.skipIf(!engine || !wanted)(`containers${why}`, () => {
  const project = `cosim-test-${process.pid}`
  let runs: string
  /** A tree of its own, so that files can be edited. */
  let tree: string
  let env: NodeJS.ProcessEnv

  const run = async (...args: string[]): Promise<{ code: number; output: string }> => {
    const all = ['compose', '-p', project, '-f', join(tree, 'docker/compose.yaml'), ...args]
    try {
      const { stdout, stderr } = await promisify(execFile)('docker', all, { env, maxBuffer: 1 << 26 })
      return { code: 0, output: stdout + stderr }
    } catch (error) {
      const { code, stdout, stderr } = error as ExecFileException & { stdout: string; stderr: string }
      return { code: Number(code ?? -1), output: stdout + stderr }
    }
  }

  beforeAll(async () => {
    const folder = privateFolder(tmpdir(), 'docker-')
    runs = join(folder, 'runs')
    mkdirSync(runs)
    tree = join(folder, 'tree')
    for (const part of ['docker', 'server', 'protocol', 'scripts', 'qemu-patches', 'test/bench', ...FILES]) {
      cpSync(join(ROOT, part), join(tree, part), { recursive: true, preserveTimestamps: true })
    }
    env = {
      ...process.env,
      COSIM_RUNS: runs,
      COSIM_PORT: '0',
      COSIM_UID: String(process.getuid?.() || 1000),
      COSIM_GID: String(process.getgid?.() || 1000),
    }
    if (process.getuid?.() === 0) execFileSync('chown', ['1000:1000', runs])
    const built = await run('--profile', 'dev', '--profile', 'ci', 'build')
    expect(built.code, built.output.slice(-4000)).toBe(0)
  }, BUILD_MS)

  afterAll(async () => {
    await run('--profile', '*', 'down', '--volumes', '--timeout', '5')
    rmSync(join(runs, '..'), { recursive: true, force: true })
    const left = execFileSync('docker', ['ps', '-aq', '--filter', `label=com.docker.compose.project=${project}`])
    expect(left.toString()).toBe('')
    const volumes = execFileSync('docker', [
      'volume',
      'ls',
      '-q',
      '--filter',
      `label=com.docker.compose.project=${project}`,
    ])
    expect(volumes.toString()).toBe('')
  }, 120_000)

  test('ci: boots, works, and ends with the outcome', async () => {
    const { code, output } = await run(
      '--profile',
      'ci',
      'run',
      '--rm',
      'ci',
      'boot',
      '--quiet',
      '--timeout=600',
      '--qemu=/usr/local/bin/qemu-remote',
      '--report=/state/ci.json',
    )
    expect(code, output.slice(-4000)).toBe(0)
    expect(JSON.parse(readFileSync(join(runs, 'ci.json'), 'utf8'))).toMatchObject({ outcome: 'ok', policy: 'pkvm' })
  }, 900_000)

  test('dev: a source file is saved, and the same guest is answered by the new code', async () => {
    const up = await run('--profile', 'dev', 'up', '--detach', '--wait', '--wait-timeout', '600')
    expect(up.code, up.output.slice(-4000)).toBe(0)
    const logs = async () => (await run('--profile', 'dev', 'logs', '--no-log-prefix', 'server')).output
    const { output: address } = await run('--profile', 'dev', 'port', 'qemu', '8642')
    expect(address.trim()).toMatch(/^127\.0\.0\.1:\d+$/)
    expect((await fetch(`http://${address.trim()}/health`)).ok).toBe(true)
    expect((await fetch(`http://${address.trim()}/api/v1/machine`)).status).toBe(401)
    const token = /#token=(\S+)/.exec(await logs())?.[1]
    const headers = { authorization: `Bearer ${token}` }
    const phase = async () => {
      const answer = await fetch(`http://${address.trim()}/api/v1/machine`, { headers })
      return ((await answer.json()) as { phase: string }).phase
    }
    await expect.poll(phase, { timeout: 300_000, interval: 1_000 }).toBe('userspace')
    appendFileSync(join(tree, 'server/hypervisor/cmdq.ts'), '// edited\n')
    await expect.poll(logs, { timeout: 60_000, interval: 500 }).toContain('cmdq.ts: new code in place')
    appendFileSync(join(tree, 'server/hypervisor/cmdq.ts'), 'export const = nothing\n')
    await expect.poll(logs, { timeout: 60_000, interval: 500 }).toContain('the old code goes on')
    expect(await phase()).toBe('userspace')
  }, 1_200_000)
})
