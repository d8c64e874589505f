// SPDX-License-Identifier: Apache-2.0
/**
 * docker/kubernetes.yaml: by the schemas that Kubernetes publishes of its objects, and by a kubectl. A client's dry run asks a cluster
 * what kinds there are: a server on loopback answers.
 */
import { execFile, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Deployment } from 'kubernetes-models/apps/v1/Deployment'
import { StatefulSet } from 'kubernetes-models/apps/v1/StatefulSet'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2/HorizontalPodAutoscaler'
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1/NetworkPolicy'
import { Service } from 'kubernetes-models/v1/Service'
import { describe, expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { privateFolder } from '../../../server/machine/scratch.ts'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const FILE = join(ROOT, 'docker/kubernetes.yaml')
const KINDS = { Deployment, StatefulSet, HorizontalPodAutoscaler, NetworkPolicy, Service }

interface Container {
  readonly name: string
  readonly image: string
  readonly args?: readonly string[]
  readonly resources: unknown
  readonly securityContext: unknown
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[]
}
interface Pod {
  readonly metadata: { readonly labels: Readonly<Record<string, string>> }
  readonly spec: {
    readonly automountServiceAccountToken: boolean
    readonly securityContext: unknown
    readonly containers: readonly Container[]
    readonly volumes?: readonly { readonly name: string }[]
  }
}
interface Manifest {
  readonly apiVersion: string
  readonly kind: keyof typeof KINDS
  readonly metadata: { readonly name: string }
  readonly spec: {
    readonly selector?: { readonly matchLabels: Readonly<Record<string, string>> }
    readonly template?: Pod
    readonly volumeClaimTemplates?: readonly { readonly metadata: { readonly name: string } }[]
    readonly scaleTargetRef?: { readonly kind: string; readonly name: string }
  }
}

/** What Go's YAML 1.1 and the 1.2 of everybody else both read the same. */
const manifests = (version: '1.1' | '1.2'): Manifest[] =>
  parseAllDocuments(readFileSync(FILE, 'utf8'), { version }).map(document => {
    expect('errors' in document && document.errors).toEqual([])
    return document.toJS() as Manifest
  })
const all = manifests('1.2')

test('means the same in both versions of YAML', () => {
  expect(manifests('1.1')).toEqual(all)
})

test.each(all.map(manifest => [`${manifest.kind} ${manifest.metadata.name}`, manifest] as const))(
  '%s is as Kubernetes has it',
  (_name, manifest) => {
    const Kind = KINDS[manifest.kind]
    expect(manifest.apiVersion).toBe(new (Kind as typeof Service)().apiVersion)
    expect(() => new (Kind as typeof Service)(manifest as never).validate()).not.toThrow()
  },
)

const deployment = all.find(({ kind }) => kind === 'Deployment')

test('the schemas find a wrong value', () => {
  const wrong = { ...deployment, spec: { ...deployment?.spec, replicas: 'four' } }
  expect(() => new Deployment(wrong as never).validate()).toThrow(/replicas/)
})

/** What the type checker says of objects, as literals: a field that there is none of is an error, wherever it stands. */
function fieldErrors(objects: readonly Manifest[]): string {
  const folder = privateFolder(tmpdir(), 'kubernetes-')
  try {
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
    const lines = objects.map(({ apiVersion, kind, ...rest }, i) => {
      const type = `import('kubernetes-models/${apiVersion}/${kind}').I${kind}`
      return `export const object${i}: ${type} = ${JSON.stringify({ apiVersion, kind, ...rest })}\n`
    })
    writeFileSync(join(folder, 'objects.ts'), lines.join(''))
    const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--target', 'es2024']
    return spawnSync(join(ROOT, 'node_modules/.bin/tsc'), [...options, 'objects.ts'], { cwd: folder, encoding: 'utf8' })
      .stdout
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('no object has a field that Kubernetes does not know', () => {
  expect(fieldErrors(all)).toBe('')
  const text = JSON.stringify(deployment)
  const wrong = text.replace('"readOnlyRootFilesystem"', '"readOnlyRootFileSystem"')
  expect(wrong).not.toBe(text)
  expect(fieldErrors([JSON.parse(wrong)])).toMatch(/objects\.ts.*readOnlyRootFileSystem/)
}, 60_000)

describe('pods', () => {
  const pods = all.flatMap(({ spec: { template, selector, volumeClaimTemplates = [] } }) =>
    template === undefined
      ? []
      : [{ template, selector, claims: volumeClaimTemplates.map(({ metadata }) => metadata.name) }],
  )
  test.each(pods.map(pod => [pod.template.spec.containers[0]?.name, pod] as const))(
    '%s: confined, bounded, and found by its labels',
    (_name, pod) => {
      const { template, selector, claims } = pod
      expect(template.metadata.labels).toMatchObject(selector?.matchLabels ?? { none: '' })
      expect(template.spec.automountServiceAccountToken).toBe(false)
      expect(template.spec.securityContext).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
      })
      const volumes = [...(template.spec.volumes ?? []).map(({ name }) => name), ...claims]
      for (const container of template.spec.containers) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect(container.resources).toMatchObject({
          requests: { memory: expect.any(String) },
          limits: { memory: expect.any(String) },
        })
        for (const { name } of container.volumeMounts) expect(volumes).toContain(name)
        // No secret on a command line.
        expect(container.args?.join(' ') ?? '').not.toMatch(/:[^/@]+@|password=/)
      }
    },
  )
})

test('the autoscaler and the queue are of objects that there are', () => {
  const named = (kind: string, name: string) => all.some(one => one.kind === kind && one.metadata.name === name)
  const target = all.find(({ kind }) => kind === 'HorizontalPodAutoscaler')?.spec.scaleTargetRef
  expect(named(target?.kind ?? '', target?.name ?? '')).toBe(true)
  const [, host = ''] = /--queue=rediss:\/\/fleet@(\S+)/.exec(readFileSync(FILE, 'utf8')) ?? []
  expect(named('Service', host)).toBe(true)
})

test('kubectl apply --dry-run=client takes it', async () => {
  const resources = {
    v1: [['services', 'Service']],
    'apps/v1': [
      ['deployments', 'Deployment'],
      ['statefulsets', 'StatefulSet'],
    ],
    'autoscaling/v2': [['horizontalpodautoscalers', 'HorizontalPodAutoscaler']],
    'networking.k8s.io/v1': [['networkpolicies', 'NetworkPolicy']],
  } as const
  const groups = Object.keys(resources).filter(name => name !== 'v1')
  const versionOf = (groupVersion: string) => ({ groupVersion, version: groupVersion.split('/')[1] })
  const answer = (path: string): object | undefined => {
    if (path === '/api') return { kind: 'APIVersions', versions: ['v1'] }
    if (path === '/apis') {
      const list = groups.map(name => ({
        name: name.split('/')[0],
        versions: [versionOf(name)],
        preferredVersion: versionOf(name),
      }))
      return { kind: 'APIGroupList', apiVersion: 'v1', groups: list }
    }
    const groupVersion = path.replace(/^\/apis?\//, '')
    if (!(groupVersion in resources)) return undefined
    const kinds = resources[groupVersion as keyof typeof resources].map(([name, kind]) => ({
      ...{ name, singularName: kind.toLowerCase(), kind, namespaced: true, verbs: ['create', 'get', 'patch'] },
    }))
    return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion, resources: kinds }
  }
  const server = createServer((request, response) => {
    const found = answer((request.url ?? '').split('?')[0] ?? '')
    response.writeHead(found === undefined ? 404 : 200, { 'content-type': 'application/json' })
    const missing = { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason: 'NotFound', code: 404 }
    response.end(JSON.stringify(found ?? missing))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    // What the fields are is looked at above: a cluster would tell it by a document of some MB.
    const words = ['--server', url, 'apply', '--dry-run=client', '--validate=false', '-f', FILE]
    const { stdout } = await promisify(execFile)('kubectl', words, {
      env: { ...process.env, KUBECONFIG: '/dev/null', HOME: '/nonexistent' },
    })
    const said = stdout.trim().split('\n')
    expect(said).toHaveLength(all.length)
    for (const line of said) expect(line).toMatch(/^\S+\/smmu-cosim\S* created \(dry run\)$/)
  } finally {
    server.close()
    server.closeAllConnections()
  }
}, 60_000)
